# The least of nixpkgs that a home needs; homes say which one they were made with.
{
  outputs = { self }: {
    lib.mkDefault = value: value;
    legacyPackages.x86_64-linux = {
      inherit (self) lib;
      system = "x86_64-linux";
      word = "@WORD@";
    };
  };
}
