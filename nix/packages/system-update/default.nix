# Update a machine: inputs, what the build server makes of them, the system, old generations.
# Nix, nixos-rebuild, home-manager and sudo are the machine's own: they must fit it.
{
  lib,
  writeShellApplication,
  build-client,
  coreutils,
  curl,
  diffutils,
  git,
  gnugrep,
  jq,
}:
writeShellApplication {
  name = "system-update";
  runtimeInputs = [
    build-client
    coreutils
    curl
    diffutils
    git
    gnugrep
    jq
  ];
  text = builtins.readFile ./system-update.sh;
  meta = {
    description = "Update inputs, wait for the build server, rebuild, collect garbage";
    license = lib.licenses.mit;
    mainProgram = "system-update";
    platforms = lib.platforms.linux;
  };
}
