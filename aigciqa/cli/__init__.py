"""The commands, one file each. None imports torch before its arguments are known to be good."""

#: What commands set for themselves before torch is loaded: on Linux, tensors of 2 MB and more come in huge pages.
ENVIRONMENT = {"THP_MEM_ALLOC_ENABLE": "1"}
