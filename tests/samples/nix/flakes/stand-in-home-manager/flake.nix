# The least of home-manager: a home is a file with what its modules write to `home.text`.
{
  inputs.nixpkgs.url = "git+file:///is/followed/elsewhere";

  outputs = { self, nixpkgs }: {
    lib.homeManagerConfiguration = { pkgs, modules }:
      let
        config = merged // { home = merged.home // { version.release = "26.11"; }; };
        values = map
          (module:
            if builtins.isFunction module then
              module { inherit config pkgs; inherit (pkgs) lib; }
            else
              module)
          modules;
        merged = builtins.foldl' (a: b: a // b // { home = (a.home or { }) // (b.home or { }); }) { } values;
      in
      {
        activationPackage = derivation {
          name = "home";
          inherit (pkgs) system;
          builder = "/bin/sh";
          args = [ "-c" "echo \"$said\" > $out" ];
          said = "${merged.home.username} with ${pkgs.word}, followed ${nixpkgs.legacyPackages.${pkgs.system}.word}: ${merged.home.text}";
        };
      };
  };
}
