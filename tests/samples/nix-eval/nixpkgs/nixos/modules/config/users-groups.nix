# NixOS-WSL imports this to put its shells into the activation of users.
{ ... }:
{
  config.system.activationScripts.users = "";
}
