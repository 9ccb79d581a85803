# The least of nixpkgs that lets a flake show its outputs: every package is one derivation
# that does nothing, every machine likewise, and no module is looked into.
{
  outputs =
    { self }:
    let
      inherit (self) lib;
      package =
        system: name: more:
        derivation {
          inherit name system;
          builder = "/bin/sh";
        }
        // more;
    in
    {
      lib = {
        genAttrs =
          names: make:
          builtins.listToAttrs (
            map (name: {
              inherit name;
              value = make name;
            }) names
          );
        filterAttrs =
          keep: set:
          removeAttrs set (
            builtins.filter (name: !keep name set.${name}) (builtins.attrNames set)
          );
        mapAttrs' =
          change: set:
          builtins.listToAttrs (map (name: change name set.${name}) (builtins.attrNames set));
        callPackageWith =
          scope: path: _:
          package scope.system (baseNameOf (toString path)) { };
        mkDefault = value: value;
        nixosSystem = _: {
          config.system.build.toplevel = package "x86_64-linux" "toplevel" { };
          pkgs = self.legacyPackages.x86_64-linux;
        };
      };
      legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (
        system:
        let
          one = name: package system name { };
        in
        {
          inherit lib system;
          stdenv.hostPlatform.system = system;
          mkShell = _: one "shell";
          nixfmt = one "nixfmt";
          runCommand = name: _: _: one name;
          shellcheck = one "shellcheck";
        }
      );
    };
}
