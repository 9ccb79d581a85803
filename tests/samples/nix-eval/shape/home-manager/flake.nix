# The least of home-manager: what it makes of a configuration is one derivation.
{
  outputs = _: {
    lib.homeManagerConfiguration = arguments: {
      inherit (arguments) pkgs;
      config = { };
      activationPackage = derivation {
        name = "home";
        inherit (arguments.pkgs) system;
        builder = "/bin/sh";
      };
    };
    nixosModules.home-manager = { };
  };
}
