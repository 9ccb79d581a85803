{
  description = "Tries every way into directories of the server";

  # @SECRET@ is a directory of the server with the file `token`, @OTHER_PATH@ the mirror of
  # another repository.

  outputs = { self }:
    let
      system = "x86_64-linux";
      zeros = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
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
        variable = tell "seen:${builtins.getEnv "HOME"}${builtins.getEnv "CANARY"}";
        parentRoot = read "/proc/1/root@SECRET@/token";
        workingDirectory = read "/proc/self/cwd/../@SECRET@/token";
        upwards = read (./. + "/../../../../../..@SECRET@/token");
        stored = read "${builtins.storePath "@SECRET@"}/token";
        storedMirror = read "${builtins.storePath "@OTHER_PATH@"}/HEAD";
        mirror = tell (toString (builtins.attrNames (builtins.readDir "@OTHER_PATH@")));
        mirrorAsTree = tell "${builtins.fetchTree { type = "path"; path = "@OTHER_PATH@"; narHash = zeros; }}";
        hashed = tell (builtins.hashFile "sha256" "@SECRET@/token");
        exists = tell "exists:${toString (builtins.pathExists "@SECRET@/token")}";
        scoped = tell (builtins.scopedImport { } "@SECRET@/token");
        imported = tell (import "@SECRET@/token");
        found = tell (toString (builtins.findFile [ { prefix = "x"; path = "@SECRET@"; } ] "x/token"));
        source = tell (toString (builtins.path { path = "@SECRET@"; name = "x"; sha256 = zeros; }));
        indirect = tell (builtins.getFlake "path:@SECRET@").outPath;
      };
    };
}
