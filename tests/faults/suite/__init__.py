"""Everything at once, from one seed: `make fault-suite SEEDS=20`, or `SEED=7` for one again.

    plan.py      what a seed stands for: a topology, and faults in their order
    lab.py       a topology, running, with a method for each kind of fault; one_store.py and
                 nodes.py have the topologies
    traffic.py   publishers, followers, an agent
    model.py     what they were told and given, written down while it happens
    verdict.py   whether that and the log in the end are what is promised
    run.py       one seed

A seed decides what is done, not how long it takes: the same seed meets the same faults at slightly
different moments.

Not tested, since they can't be made on one machine without privileges: clocks that differ or are
set back, a disk that fails, is full or lies about what it has synced, a network that separates
nodes of the store from each other (nodes are killed and paused instead), and the loss of several
machines at once. Between a server and its store there is a proxy where the store is one node; with
Sentinels and clusters, whose nodes name each other's addresses, the nodes cut the connections.
"""
