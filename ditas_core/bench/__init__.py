"""The project's benchmarks: ``ditas bench NAME``, a module each."""
