"""Kernel networking outside eBPF: netlink, network namespaces, sysctls, ICMP, netfilter counters."""
