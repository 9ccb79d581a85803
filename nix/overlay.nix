# The packages as an overlay, for configurations that say `pkgs.build-server`, and the
# scripts of the bootstrap under one name, `pkgs.bootstrap-scripts`.
final: prev:
let
  packages = import ./packages { pkgs = final; };
in
{
  inherit (packages)
    build-server
    build-client
    build-trigger
    build-status
    build-logs
    system-update
    bootstrap-new-machine
    ;
  bootstrap-scripts = {
    inherit (packages)
      build-trigger
      build-status
      build-logs
      system-update
      bootstrap-new-machine
      ;
  };
}
