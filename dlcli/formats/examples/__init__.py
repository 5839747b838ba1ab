"""Short programs, for people, that use an exported file without dlcli."""
