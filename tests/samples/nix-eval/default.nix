# What the tests evaluate with: `evalHome` against the real home-manager modules, `evalNixos`
# against declared stand-ins for NixOS, and a set of inert stand-in packages.
{
  nixpkgsLib,
  homeManager ? null,
  nixosWsl ? null,
  overlays ? [ ],
  derivations ? false,
}:
let
  lib = import nixpkgsLib;
  names = builtins.fromJSON (builtins.readFile ./names.json);
  packagesFor =
    system:
    import ./packages.nix {
      inherit
        lib
        names
        system
        overlays
        derivations
        ;
    };
  pkgs = packagesFor "x86_64-linux";
in
{
  inherit lib pkgs packagesFor;
  evalHome = import ./home.nix { inherit lib pkgs homeManager; };
  evalNixos = import ./nixos.nix { inherit lib packagesFor nixosWsl; };
}
