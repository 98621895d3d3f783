"""The lab's cluster DNS: answers for services and pods, from what the API says. MicroK8s brings CoreDNS.

Runs in an image of its own (``lab.imagebuild``) as ``python3 -m cluster_dns``, so its modules import each
other by that name's relative form and nothing else of the lab.
"""
