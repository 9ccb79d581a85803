{
  description = "Every way in which a target can fail to evaluate, among good ones";

  outputs = { self }:
    let
      system = "x86_64-linux";
      library = import ./library.nix;
      packages = self.packages.${system};
      make = name: derivation {
        inherit name system;
        builder = "/bin/sh";
        args = [ "-c" "echo ${name} > $out" ];
      };
    in
    {
      packages.${system} = {
        good = make "good";
        hello = make "hello";
        zzz = make "zzz";
        thrown = throw "the first line\nthe second line";
        coloured = throw "[31mred[0m as a rose";
        inLibrary = library.thrown;
        inAttribute = derivation {
          inherit system;
          name = "x";
          builder = library.thrown;
        };
        asserted = assert 1 == 2; packages.good;
        aborted = abort "deliberately";
        mistyped = 1 + "a";
        recursive = let x = x; in x;
        missing = packages.helo;
        argument = library.typed { y = 2; };
        deep = let f = n: if n == 0 then 0 else 1 + f (n - 1); in f 100000000;
        absolute = builtins.readFile /etc/passwd;
        absent = import ./absent.nix;
        unparsable = import ./unparsable.nix;
        text = "only a string";
        forged = {
          type = "derivation";
          system = "x86_64-linux";
          drvPath = "/etc/passwd";
          out.outPath = "/etc";
        };
        imported = import (make "imported");
        undefined = import ./undefined.nix;
        # As NixOS and home-manager tell it.
        assertions = throw "\nFailed assertions:\n- No root file system.\n- No boot loader.";
      };
      checks.${system} = throw "no checks today";
    };
}
