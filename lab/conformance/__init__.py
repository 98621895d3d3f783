"""Upstream's end-to-end specs of services and pod networking, run against a lab: ``make conformance``."""
