# services.build-server: the machine that builds what is pushed, serves the results as a
# binary cache, and lets the internet in to one route.
{
  imports = [
    ./options.nix
    ./settings.nix
    ./service.nix
    ./sockets.nix
    ./harmonia.nix
    ./funnel.nix
    ./tailnet.nix
    ./nix.nix
    ./assertions.nix
  ];
}
