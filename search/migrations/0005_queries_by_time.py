from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("search", "0004_labels")]

    operations = [
        migrations.AddIndex(
            model_name="query",
            index=models.Index(fields=["created_at"], name="query_by_time"),
        ),
    ]
