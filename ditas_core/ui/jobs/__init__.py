"""What the tabs start: generators of progress over the library, without the interface."""
