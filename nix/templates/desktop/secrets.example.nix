# Copy this to secrets.nix and fill it in. git ignores secrets.nix, Nix copies it into its
# store, which every user of the machine can read: addresses and IDs belong here, keys do
# not, only the paths of files that hold them. Every line may be left out.
{
  buildServer = {
    address = "http://build-server:8000";
    # curl -s http://build-server:8000/client.toml
    # cacheUrl = "http://build-server:5000";
    # publicKey = "build-server-1:…";
  };

  # atuin.syncServer = "https://api.atuin.sh";

  # tailscale.authKeyFile = "/run/secrets/tailscale";

  syncthing.devices = {
    # syncthing --device-id, on that machine
    # laptop = "XXXXXXX-XXXXXXX-XXXXXXX-XXXXXXX-XXXXXXX-XXXXXXX-XXXXXXX-XXXXXXX";
  };
}
