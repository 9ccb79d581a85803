# The stand-ins as a flake in the place of nixpkgs. `nixpkgs/lib` is a copy of the real one
# that the tests put there.
{
  outputs =
    _:
    let
      harness = import ./default.nix {
        nixpkgsLib = ./nixpkgs/lib;
        derivations = true;
      };
      inherit (harness) lib;
    in
    {
      lib = lib // {
        nixosSystem =
          {
            modules,
            specialArgs ? { },
            system ? null,
          }:
          harness.evalNixos {
            inherit specialArgs;
            modules = modules ++ lib.optional (system != null) { nixpkgs.hostPlatform = system; };
          };
      };
      legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] harness.packagesFor;
    };
}
