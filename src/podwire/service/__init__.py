"""Kubernetes Services as the datapath needs them. Pure: no I/O, no clock, no logging.

``parse`` reads API objects into ``model``, ``compile`` works out what one service means on this node,
``registry`` keeps all of them and says what to change in the datapath's tables, ``maglev`` builds consistent
lookup tables and ``report`` is what people see."""
