# Where modules name their maintainers.
{ lib, ... }:
{
  options.meta = lib.mkOption {
    type = lib.types.attrsOf lib.types.unspecified;
    internal = true;
    default = { };
  };
}
