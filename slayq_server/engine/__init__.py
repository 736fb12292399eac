"""What the daemon exists for: lease what is due, deliver it, write down what came of it.

The parts do not know each other: `slayq_server.daemon` joins them. `backoff`, `outcome` and `address_guard` are pure;
`delivery`, with `posting` beside it, is the only part that talks to apps.
"""
