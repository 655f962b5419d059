"""The access-control gateway: listeners, admission, pools, routes, audit, commands."""
