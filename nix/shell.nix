# What it takes to work on this project: the service's own Python with what the tests need,
# the tools that the service calls, and the linters.
{ pkgs }:
let
  inherit (pkgs) lib;
  base = import ./packages/python.nix {
    inherit lib;
    inherit (pkgs) python3;
  };
  inherit (base) project;
in
pkgs.mkShell {
  packages = [
    (base.python.withPackages (
      _: base.libraries (project.dependencies ++ project.optional-dependencies.test)
    ))
    pkgs.bubblewrap
    pkgs.git
    pkgs.gnumake
    pkgs.nix
    pkgs.nixfmt
    pkgs.openssh
    pkgs.shellcheck
    pkgs.util-linux
  ];
  # `python -m pytest` finds the checkout before anything that is installed.
  shellHook = ''
    export PYTHONPATH="$PWD''${PYTHONPATH:+:$PYTHONPATH}"
  '';
}
