{
  description = "One package, @NAME@, built by a script of the test's";

  outputs = { self }: {
    packages.x86_64-linux."@NAME@" = derivation {
      name = "@NAME@";
      system = "x86_64-linux";
      builder = "/bin/sh";
      PATH = "/bin:/usr/bin";
      args = [ "-c" "@SCRIPT@" ];
    };
  };
}
