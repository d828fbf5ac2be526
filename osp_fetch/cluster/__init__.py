"""Many machines, one run: the run deals jobs to nodes, and connections of each host to all of them.

A node is a worker process on another machine: it runs `workers.worker` and exchanges the same messages as a
process of this machine. `coordinator` decides without I/O which node gets a job and when a node is lost;
`pool` carries that out in the process of the run, which has the only ledger; `ray_nodes` starts the nodes
on a Ray cluster. `destinations` and `own_folders` say what becomes of a file that passes from node to node.
`range_leases` lets idle nodes fetch ranges of the last large files. `of_run` starts the workers or nodes of a
run, and `probe` says for `plan` what nodes would write to.
`shares` is another way, without a coordinator: runs that share an output folder share a manifest by leases.

The package may import everything below floor 6 of `tests/test_architecture.py`, as `workers` does. `ray` is
imported in `ray_nodes` only, inside functions.
Start with `coordinator.Coordinator` and `pool.NodePool`.
"""
