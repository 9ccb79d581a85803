# A build server in one page, for the checks.
{
  services.build-server = {
    enable = true;
    settings = {
      public_url = "http://build-server:8000";
      github.public_webhook_url = "https://build-server.example-tailnet.ts.net/webhook";
      repository = [ { name = "owner/name"; } ];
    };
    secrets.webhookSecretFile = "/run/secrets/webhook";
    secrets.githubTokenFile = "/run/secrets/github-token";
    harmonia.enable = true;
    harmonia.publicKey = "build-server-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    funnel.enable = true;
  };
  services.tailscale.enable = true;
}
