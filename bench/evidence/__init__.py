"""What a measurement must be able to show for itself: how busy the machine was, what it is, how much memory it took."""
