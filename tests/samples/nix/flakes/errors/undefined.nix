{ lib }:
# A slip of the pen.
libary.id
