# What is this machine's own.
{
  name = "laptop";
  user = "alice";
  home = "/home/alice";
  system = "x86_64-linux";
}
