# Files for a new machine, from one of the templates and from what the build server says.
# Nix, Tailscale and home-manager are looked for and not brought along.
{
  lib,
  writeShellApplication,
  build-client,
  coreutils,
  curl,
  diffutils,
  findutils,
  gnugrep,
  gnused,
  jq,
  templates ? ../../templates,
}:
writeShellApplication {
  name = "bootstrap-new-machine";
  runtimeInputs = [
    build-client
    coreutils
    curl
    diffutils
    findutils
    gnugrep
    gnused
    jq
  ];
  text = ''
    BOOTSTRAP_TEMPLATES=''${BOOTSTRAP_TEMPLATES:-${templates}}
  ''
  + builtins.readFile ./bootstrap-new-machine.sh;
  meta = {
    description = "Write the flake, home and secrets files of a new machine";
    license = lib.licenses.mit;
    mainProgram = "bootstrap-new-machine";
    platforms = lib.platforms.linux;
  };
}
