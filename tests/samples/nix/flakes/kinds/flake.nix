{
  description = "Every kind of target, for two systems, with names that need quotes";

  outputs = { self }:
    let
      make = system: name: derivation {
        inherit name system;
        builder = "/bin/sh";
        args = [ "-c" "echo ${name} > $out" ];
      };
      here = make "x86_64-linux";
      there = make "aarch64-linux";
    in
    {
      packages.x86_64-linux = {
        default = here "default";
        "py3.12" = here "py312";
        web-app = here "web-app";
        web-test = here "web-test";
        multiple = derivation {
          name = "multiple";
          system = "x86_64-linux";
          builder = "/bin/sh";
          outputs = [ "out" "dev" ];
        };
      };
      packages.aarch64-linux.default = there "default";
      checks.aarch64-linux.far = there "far";
      devShells.x86_64-linux.default = here "shell";
      apps.x86_64-linux.run = { type = "app"; program = "${here "default"}"; };
      formatter.x86_64-linux = here "formatter";
      legacyPackages.x86_64-linux = {
        lib.version = "1";
        tool = here "tool";
        python.requests = here "requests";
        removed = throw "removed was renamed to tool";
      };
      homeConfigurations."alice@laptop.local".activationPackage = here "alice";
      homeConfigurations.bob.activationPackage = here "bob";
      nixosConfigurations.srv.config.system.build = {
        toplevel = here "srv";
        isoImage = here "srv-iso";
      };
      nixosConfigurations.arm.config.system.build.toplevel = there "arm";
      darwinConfigurations.mac.system = make "aarch64-darwin" "mac";
    };
}
