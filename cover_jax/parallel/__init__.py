"""Devices and hosts: the mesh and its sharding rules, compilation, messages between hosts, chips."""
