"""Upstream's end-to-end specs of services, pods and policy, run against a lab: ``make conformance``."""
