{
  description = "Tries everything that evaluation could be used for against its host";

  # @SECRET@ is a directory of the server with the file `token`, @URL@ a service on
  # loopback, @OTHER@ the mirror of another repository, @HOOK@ a program.
  nixConfig = {
    post-build-hook = "@HOOK@";
    pre-build-hook = "@HOOK@";
    diff-hook = "@HOOK@";
    run-diff-hook = true;
    plugin-files = "@HOOK@";
    extra-plugin-files = "@HOOK@";
    build-hook = "@HOOK@";
    builders = "ssh://@HOOK@";
    netrc-file = "@SECRET@/token";
    secret-key-files = "@SECRET@/token";
    trusted-users = "*";
    sandbox = false;
    substituters = "@URL@/cache";
    extra-substituters = "@URL@/extra";
    flake-registry = "@URL@/registry.json";
    allow-import-from-derivation = true;
    allow-unsafe-native-code-during-evaluation = true;
    pure-eval = false;
  };

  outputs = { self }:
    let
      system = "x86_64-linux";
      zeros = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
      # What is read ends in the name of a derivation, in its message and in the store.
      tell = text: builtins.trace text (derivation {
        name = "told";
        inherit system text;
        builder = "/bin/sh";
        written = builtins.toFile "written" text;
      });
      read = path: tell (builtins.readFile path);
    in
    {
      packages.${system} = {
        harmless = tell "nothing";
        absolute = read /. + "@SECRET@/token";
        absoluteString = read "@SECRET@/token";
        copied = tell "${/. + "@SECRET@"}";
        path = read "${builtins.path { path = "@SECRET@"; name = "x"; }}/token";
        filtered = read "${builtins.filterSource (p: t: true) (/. + "@SECRET@")}/token";
        listed = tell (toString (builtins.attrNames (builtins.readDir "@SECRET@")));
        tree = read "${builtins.fetchTree { type = "path"; path = "@SECRET@"; narHash = zeros; }}/token";
        file = read (builtins.fetchurl { url = "file://@SECRET@/token"; sha256 = zeros; });
        otherMirror = read "${builtins.fetchGit { url = "@OTHER@"; ref = "refs/heads/dev"; rev = "@OTHER_REV@"; }}/token";
        otherFlake = read "${builtins.getFlake "git+@OTHER@?ref=refs/heads/dev&rev=@OTHER_REV@"}/token";
        link = read (./. + "/link/token");
        environ = read "/proc/self/environ";
        parentEnviron = read "/proc/1/environ";
        variable = tell "seen:${builtins.getEnv "CANARY"}";
        nixPath = tell (toString builtins.nixPath);
        exec = tell (builtins.exec [ "/bin/sh" "-c" "cat @SECRET@/token" ]);
        url = read (builtins.fetchurl { url = "@URL@/url"; sha256 = zeros; });
        tarball = read (builtins.fetchTarball { url = "@URL@/tarball.tar.gz"; sha256 = zeros; });
        git = read "${builtins.fetchGit { url = "@URL@/git"; rev = "@OTHER_REV@"; }}/token";
        built = import (derivation {
          name = "built";
          inherit system;
          builder = "/bin/sh";
          args = [ "-c" "cat @SECRET@/token > $out" ];
        });
      };
    };
}
