{
  description = "A flake with one input, which a test serves at @URL@";

  inputs.dep.url = "@URL@";

  outputs = { self, dep }: {
    packages.x86_64-linux.default = derivation {
      name = "default";
      system = "x86_64-linux";
      builder = "/bin/sh";
      args = [ "-c" "echo ${dep.value} > $out" ];
    };
  };
}
