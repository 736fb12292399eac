"""Adapters that let a framework hand requests to `SlayQ.receive`. Each is a module of its own, with its own extra.

An adapter reads the body up to a limit, passes on what `receive` answers as it comes, and ends the function when the
caller goes away. All that is said about a request is said by `receive`.
"""
