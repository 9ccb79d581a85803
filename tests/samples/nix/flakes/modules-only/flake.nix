{
  description = "A flake with nothing to build";

  outputs = { self }: {
    homeModules.default = { ... }: { };
    nixosModules.default = { ... }: { };
    packages.aarch64-linux.default = derivation {
      name = "far";
      system = "aarch64-linux";
      builder = "/bin/sh";
    };
  };
}
