"""A gateway under constant load while everything around it fails, and books that are reconciled with its audit log.

``scripts/chaos MINUTES`` runs it. `books` is what peers write down, `reconcile` compares that with the log (pure),
`clients`, `master`, `workers` are the peers, `stand` is the gateway and its home, `troubles` what goes wrong, `play`
the whole.
"""
