"""The models. One file each; a file registers its entry and is found by discovery."""
