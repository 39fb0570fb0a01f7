"""The plugins: one runtime each, behind `bench.interface`. Importing a module here loads no runtime."""
