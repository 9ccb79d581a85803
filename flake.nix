# Wiring only: what each output is, is in nix/.
{
  description = "A push-driven CI builder for Nix flakes, and the machines around it";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixpkgs-unstable";
    home-manager = {
      url = "github:nix-community/home-manager";
      inputs.nixpkgs.follows = "nixpkgs";
    };
    nixos-wsl = {
      url = "github:nix-community/NixOS-WSL";
      inputs.nixpkgs.follows = "nixpkgs";
      # For those who use it without flakes.
      inputs.flake-compat.follows = "";
    };
  };

  outputs =
    inputs@{ self, nixpkgs, ... }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forEach = make: lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
      packagesOf = pkgs: import ./nix/packages { inherit pkgs; };
      # As a set, because Nix before 2.9 takes no path here; with the path inside it errors
      # still name the file.
      module = path: { imports = [ path ]; };
      template = path: description: { inherit path description; };
    in
    {
      packages = forEach (pkgs: packagesOf pkgs // { default = (packagesOf pkgs).build-server; });

      overlays.default = import ./nix/overlay.nix;

      nixosModules = {
        default.imports = [
          ./nix/modules/nixos/build-server
          ./nix/modules/nixos/build-client.nix
          ./nix/modules/nixos/bootstrap-services.nix
        ];
        build-server = module ./nix/modules/nixos/build-server;
        build-client = module ./nix/modules/nixos/build-client.nix;
        wsl-host = module ./nix/modules/nixos/wsl-host.nix;
      };

      homeModules = {
        default.imports = [
          ./nix/modules/home/bootstrap.nix
          ./nix/modules/home/services.nix
          ./nix/modules/home/terminal.nix
          ./nix/modules/home/build-client.nix
        ];
        bootstrap = module ./nix/modules/home/bootstrap.nix;
        services = module ./nix/modules/home/services.nix;
        terminal = module ./nix/modules/home/terminal.nix;
        build-client = module ./nix/modules/home/build-client.nix;
      };
      # The name of before, for flakes that ask for it.
      homeManagerModules = self.homeModules;

      templates = {
        laptop = template ./nix/templates/laptop "A laptop: home-manager, saving power";
        desktop = template ./nix/templates/desktop "A desktop: home-manager, all folders";
        server = template ./nix/templates/server "A server without a screen: home-manager";
        machine = template ./nix/templates/machine "A NixOS machine that uses the build server";
        project = template ./nix/templates/project "A repository that the build server builds";
      };

      nixosConfigurations.build-server = lib.nixosSystem {
        modules = [
          inputs.nixos-wsl.nixosModules.default
          self.nixosModules.build-server
          self.nixosModules.wsl-host
          ./nix/hosts/build-server
        ];
      };

      checks = forEach (pkgs: import ./nix/checks { inherit inputs pkgs; });
      devShells = forEach (pkgs: { default = import ./nix/shell.nix { inherit pkgs; }; });
      # The one that goes through a whole tree, where nixpkgs has it already.
      formatter = forEach (pkgs: pkgs.nixfmt-tree or pkgs.nixfmt);
    };
}
