# Home modules, and nothing that Nix would build.
{
  outputs = { self, ... }: {
    homeModules = {
      default = { config, ... }: { home.text = "the default in ${config.home.homeDirectory}"; };
      good = { home.text = "a good one"; };
      broken = { lib, ... }: { home.text = throw "terminal.theme must be one of light, dark"; };
      unknown = { config, ... }: { home.text = config.nothing.like.it; };
    };
    homeManagerModules.old = { home.text = "an old one"; };
  };
}
