"""Clusters: a trial one on this machine, jobs on any, and configurations for Kubernetes, clouds and Slurm."""
