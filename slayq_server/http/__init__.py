"""The daemon's HTTP surface: health, metrics, and whatever routes the daemon mounts beside them."""
