"""What a device needs to run a backend, brought along from here: it needs no internet, no pip and no root for that."""
