# The least of NixOS-WSL: a module that says nothing.
{
  outputs = _: {
    nixosModules.default = { };
  };
}
