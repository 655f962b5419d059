"""The worker's side: dial, be challenged, switch, serve, come back."""
