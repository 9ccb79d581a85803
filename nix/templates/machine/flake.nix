# A NixOS machine that fetches from the build server, with the home of its user:
# `sudo nixos-rebuild switch --flake path:.`
{
  description = "A NixOS machine that uses the build server";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixpkgs-unstable";
    home-manager = {
      url = "github:nix-community/home-manager";
      inputs.nixpkgs.follows = "nixpkgs";
    };
    build-server = {
      url = "github:Bullish-Design/build-server";
      inputs.nixpkgs.follows = "nixpkgs";
      inputs.home-manager.follows = "home-manager";
    };
  };

  outputs =
    {
      nixpkgs,
      home-manager,
      build-server,
      ...
    }:
    let
      machine = import ./machine.nix;
    in
    {
      nixosConfigurations.${machine.name} = nixpkgs.lib.nixosSystem {
        modules = [
          build-server.nixosModules.default
          home-manager.nixosModules.home-manager
          ./configuration.nix
          ./build-server.nix
          {
            home-manager = {
              useGlobalPkgs = true;
              users.${machine.user}.imports = [
                (build-server + "/nix/profiles/laptop.nix")
                ./home.nix
              ];
            };
          }
        ];
      };
    };
}
