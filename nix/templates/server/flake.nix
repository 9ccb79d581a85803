# A server without a screen, set up with home-manager: `home-manager switch --flake path:.`
{
  description = "A server without a screen";

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
      homeConfigurations.${machine.user} = home-manager.lib.homeManagerConfiguration {
        pkgs = nixpkgs.legacyPackages.${machine.system};
        modules = [
          (build-server + "/nix/profiles/server.nix")
          ./home.nix
        ];
      };
    };
}
