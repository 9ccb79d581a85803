# What is this machine's own.
{
  name = "machine";
  user = "alice";
  system = "x86_64-linux";
}
