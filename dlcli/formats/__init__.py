"""The model files that dlcli writes and reads. One file a format; it registers itself."""
