# A repository that the build server builds: every package and every check, at every push.
{
  description = "A project";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixpkgs-unstable";

  outputs =
    { nixpkgs, ... }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forEach = make: nixpkgs.lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
    in
    {
      packages = forEach (pkgs: {
        default = pkgs.runCommand "hello" { } ''
          mkdir -p "$out/bin"
          printf '#!%s\necho Hello\n' ${pkgs.runtimeShell} > "$out/bin/hello"
          chmod +x "$out/bin/hello"
        '';
      });

      checks = forEach (pkgs: {
        shell = pkgs.runCommand "shell-check" { } ''
          ${pkgs.runtimeShell} -c 'test "$(echo Hello)" = Hello'
          touch "$out"
        '';
      });

      devShells = forEach (pkgs: {
        default = pkgs.mkShell { packages = [ pkgs.git ]; };
      });

      formatter = forEach (pkgs: pkgs.nixfmt);
    };
}
